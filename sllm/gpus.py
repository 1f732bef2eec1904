"""What is known of a GPU by its name, without having one."""

# Dense bf16 peaks without sparsity, FLOP/s, from the vendor's data sheets.
PEAK_FLOPS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}


def known_gpu(text: str) -> str | None:
    """The key of PEAK_FLOPS that is named in a text: what a driver or a profile calls it, as in `gpu:h100:2`."""
    return next((name for name in PEAK_FLOPS if name.upper() in text.upper()), None)
