"""What Snakemake itself costs: 1,000 tiny jobs on one machine: `python benchmarks/scheduling.py [jobs]`."""

import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dllm_agents.provenance import hardware

SNAKEFILE = """
rule all:
    input:
        expand("out/{number}", number=range(COUNT)),

rule tiny:
    output:
        "out/{number}",
    shell:
        "touch {output}"
"""


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Snakefile").write_text(SNAKEFILE.replace("COUNT", str(count)))
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--quiet", "all"]
        for label, arguments in {"dry run": ["--dry-run"], "run": [], "run again, nothing to do": []}.items():
            started = time.perf_counter()
            subprocess.run([*command, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            spent = time.perf_counter() - started
            print(f"{label}: {spent:.1f} s, {1000 * spent / count:.1f} ms a job")
    print(f"{count} jobs; {hardware()}; Python {platform.python_version()}")


if __name__ == "__main__":
    main()
