"""`python -m dllm_agents` is the same as `dllm-agents`."""

from dllm_agents.cli import main

if __name__ == "__main__":
    main()
