#!/usr/bin/env bash
# Installs what the test cluster needs, on Debian and Ubuntu as root; elsewhere it says what is missing. No service is
# started: the tests start daemons of their own, in namespaces.
set -euo pipefail
programs=(slurmctld slurmd sbatch munged pdsh sshd ip)
packages=(slurmctld slurmd slurm-client munge openssh-server pdsh iproute2)
PATH=$PATH:/usr/sbin:/sbin
missing=()
for program in "${programs[@]}"; do
  command -v "$program" > /dev/null || missing+=("$program")
done
[ "${#missing[@]}" -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  echo "test cluster: ${missing[*]} missing, and only root can install them, with apt-get" >&2
  exit 0
fi
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod +x "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}"; } > /dev/null 2>&1; then
  echo "test cluster: apt-get cannot install ${packages[*]}" >&2
fi
