"""A Slurm cluster of two nodes on one machine: real daemons; a network namespace, host name and /etc/hosts per node.

What a real cluster has and one host hides is here: nodes with addresses of their own, names that resolve between them
only, and a `localhost` that is not the other node. Nothing outside the folder and the namespaces is changed.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

NETWORK = "198.51.100"  # a documentation range (RFC 5737), inside the namespaces only
HOSTS = {"ctl": 10, "node1": 11, "node2": 12}
NODES = ("node1", "node2")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "pdsh", "sshd", "ip", "nsenter", "unshare")
GPUS = {"v100": 4, "a100": 8}  # stand-ins: devices that are /dev/null, so that requests of real clusters are accepted

# Fast answers: a requeued job would wait 120 s for its old credential, schedulers some seconds.
CONFIG = """
ClusterName=xbridge
SlurmctldHost=ctl({network}.10)
SlurmctldPort=26817
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
MpiDefault=none
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=600
{nodes}
PartitionName=main Nodes=node1,node2 Default=YES State=UP
{partitions}
"""


def why_not():
    """Why the cluster cannot be started here, or None."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    paths = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program, path=paths) is None]
    if missing:
        return f"needs {', '.join(missing)} (make test-cluster installs them where apt-get does)"
    command = ["unshare", "--net", "--mount", "--uts", "true"]
    probe = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"namespaces are not permitted here ({probe.stderr.strip()})" if probe.returncode else None


class Cluster:
    """Start with `start`, end with `stop`; `run` and `popen` start commands on a host (ctl, node1, node2)."""

    def __init__(self, folder, *, partitions=(), features=()):
        self.folder, self.partitions, self.features = folder, partitions, features
        self.prefix = f"xb{os.getpid()}"
        self.environ = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.environ["PATH"] += ":/usr/sbin:/sbin"
        self._made_run_sshd = False

    def start(self):
        for name in ("munge", "state", "run", "dev", "spool-node1", "spool-node2"):
            (self.folder / name).mkdir()
        self.folder.chmod(0o755)
        self._write_config()
        self._start_munge()
        self._make_network()
        self.run("ctl", "slurmctld").check_returncode()
        for node in NODES:
            self.run(node, "slurmd", "-N", node).check_returncode()
        self._start_sshd()
        self.wait_for(self._is_idle, 30, "two idle nodes")

    def command(self, host, *words):
        """`ip netns exec` would remount /sys and slurmd would find no cgroups there, so the namespaces are entered."""
        setup = 'mount --bind "$0" /etc/hosts && hostname "$1" && shift && exec "$@"'
        enter = ["nsenter", f"--net=/run/netns/{self.prefix}-{host}", "unshare", "--mount", "--uts"]
        return [*enter, "sh", "-c", setup, str(self.folder / "hosts"), host, *map(str, words)]

    def run(self, host, *words, timeout=240, **environ):
        return subprocess.run(
            self.command(host, *words), env={**self.environ, **environ}, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip

    def output(self, host, *words, **environ):
        """What a command that must succeed prints."""
        done = self.run(host, *words, **environ)
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout

    def job(self, job):
        """Facts of a job as scontrol shows them, by name."""
        facts = self.output("ctl", "scontrol", "show", "job", job, "-o").split()
        return dict(fact.partition("=")[::2] for fact in facts if "=" in fact)

    def wait_for_job(self, job, seconds=240):
        """Return the job's last state. `sbatch --wait` asks ever more slowly: this asks often."""
        waiting = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED")
        self.wait_for(lambda: self.job(job)["JobState"] not in waiting, seconds, f"the end of job {job}")
        return self.job(job)["JobState"]

    def wait_for(self, condition, seconds, what):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}; see {self.folder}"
            time.sleep(0.2)

    def stop(self):
        """End the daemons and whatever they still run, and take the namespaces away."""
        if (self.folder / "run" / "slurmctld.pid").exists():
            self.run("ctl", "scancel", "--full", "--signal=KILL", "--me")
        for file in (self.folder / "run").glob("*.pid"):
            _end(int(file.read_text()))
        for host in HOSTS:
            name = f"{self.prefix}-{host}"
            left = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
            for pid in left.stdout.split():
                _end(int(pid))
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        if self._made_run_sshd:
            Path("/run/sshd").rmdir()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_config(self):
        devices = [f"{self.folder}/dev/{kind}" for kind in GPUS]
        for count, device in zip(GPUS.values(), devices, strict=True):
            for index in range(count):
                os.mknod(f"{device}{index}", 0o20666, os.makedev(1, 3))
        gres = [
            f"NodeName=node[1-2] Name=gpu Type={kind} File={device}[0-{count - 1}]"
            for (kind, count), device in zip(GPUS.items(), devices, strict=True)
        ]
        (self.folder / "gres.conf").write_text("\n".join(gres) + "\n", encoding="utf-8")
        hardware = (
            "CPUs=128 Boards=1 SocketsPerBoard=2 CoresPerSocket=64 ThreadsPerCore=1 RealMemory=1000000 State=UNKNOWN "
            f"Gres={','.join(f'gpu:{kind}:{count}' for kind, count in GPUS.items())}"
        ) + (f" Features={','.join(self.features)}" if self.features else "")
        nodes = [f"NodeName={node} NodeAddr={NETWORK}.{HOSTS[node]} Port=26818 {hardware}" for node in NODES]
        partitions = [f"PartitionName={name} Nodes=node1,node2 State=UP" for name in self.partitions]
        text = CONFIG.format(
            folder=self.folder, network=NETWORK, nodes="\n".join(nodes), partitions="\n".join(partitions)
        )
        (self.folder / "slurm.conf").write_text(text, encoding="utf-8")
        names = "".join(f"{NETWORK}.{number} {host}\n" for host, number in HOSTS.items())
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}", encoding="utf-8")

    def _start_munge(self):
        folder = self.folder / "munge"
        folder.chmod(0o755)
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o600)
        files = {"key-file": "key", "socket": "socket", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={folder / name}" for option, name in files.items()]
        subprocess.run(["munged", *options, f"--pid-file={self.folder}/run/munged.pid"], env=self.environ, check=True)

    def _make_network(self):
        def ip(*words):
            subprocess.run(["ip", *words], check=True)

        for host in HOSTS:
            ip("netns", "add", f"{self.prefix}-{host}")
            ip("-n", f"{self.prefix}-{host}", "link", "set", "lo", "up")
        centre = f"{self.prefix}-ctl"
        ip("-n", centre, "link", "add", "bridge", "type", "bridge")
        ip("-n", centre, "addr", "add", f"{NETWORK}.10/24", "dev", "bridge")
        ip("-n", centre, "link", "set", "bridge", "up")
        for node in NODES:
            name = f"{self.prefix}-{node}"
            ip("-n", centre, "link", "add", node, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", centre, "link", "set", node, "master", "bridge", "up")
            ip("-n", name, "addr", "add", f"{NETWORK}.{HOSTS[node]}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")

    def _start_sshd(self):
        """A server per node with throw-away keys; `ssh_config` leads to them, and nothing is written to ~/.ssh."""
        self._made_run_sshd = not Path("/run/sshd").exists()
        Path("/run/sshd").mkdir(exist_ok=True)
        folder = self.folder / "ssh"
        folder.mkdir(mode=0o700)
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        client = (
            f"Host *\n IdentityFile {folder}/user\n IdentitiesOnly yes\n BatchMode yes\n"
            f" UserKnownHostsFile {folder}/known\n StrictHostKeyChecking accept-new\n"
        )
        (self.folder / "ssh_config").write_text(client, encoding="utf-8")
        for node in NODES:
            server = (
                f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
                f"PidFile {self.folder}/run/sshd-{node}.pid\n"
                "UsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nStrictModes no\n"
            )
            (folder / f"{node}.conf").write_text(server, encoding="utf-8")
            self.run(node, "/usr/sbin/sshd", "-f", folder / f"{node}.conf").check_returncode()

    def _is_idle(self):
        return len(self.run("ctl", "sinfo", "-h", "-N", "-t", "idle", "-p", "main").stdout.splitlines()) == len(NODES)


def _end(pid):
    """TERM, and KILL after five seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(50):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            time.sleep(0.1)
