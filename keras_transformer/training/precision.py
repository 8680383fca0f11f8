"""Which number format this processor trains fastest in."""

from pathlib import Path

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, x86, Arm
CPU_INFO = Path("/proc/cpuinfo")


def fastest_policy(cpu_info: Path = CPU_INFO) -> str:
    """ "mixed_bfloat16" where the processor multiplies bfloat16 itself, else "float32".

    Where it doesn't, TensorFlow emulates bfloat16; `benchmarks/training_speed.py` measures both on your
    machine. Other systems than Linux name no flags: float32.
    """
    try:
        lines = cpu_info.read_text(encoding="utf-8").splitlines()
    except OSError:
        return "float32"
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[1].split()}
    return "mixed_bfloat16" if flags & BFLOAT16_FLAGS else "float32"
