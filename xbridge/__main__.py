"""`python -m xbridge`, `accelerate launch -m xbridge`, `deepspeed --module xbridge`: all are the command `xbridge`."""

from xbridge.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
