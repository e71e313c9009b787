"""Refuses a dependency whose licence is not permissive. Reads the output of `cargo metadata`."""

import json
import re
import sys

PERMISSIVE = {
    "MIT", "MIT-0", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib",
    "0BSD", "BSL-1.0", "CC0-1.0", "Unlicense", "Unicode-3.0", "Unicode-DFS-2016", "CDLA-Permissive-2.0",
    # Weak copyleft per file: used unmodified.
    "MPL-2.0",
}


def permissive(expression: str) -> bool:
    """SPDX expression without nesting deeper than one level: every AND operand needs one permissive OR operand."""
    expression = expression.replace("/", " OR ").replace("(", " ").replace(")", " ")
    return all(
        any(choice.strip() in PERMISSIVE for choice in re.split(r"\s+OR\s+", part))
        for part in re.split(r"\s+AND\s+", expression)
    )


def main() -> int:
    with open(sys.argv[1], encoding="utf-8") as file:
        packages = json.load(file)["packages"]
    refused = [p for p in packages if not permissive(p["license"] or "none")]
    for package in refused:
        print(f"{package['name']} {package['version']}: licence '{package['license']}' is not on the list")
    print(f"{len(packages)} packages, {len(refused)} refused")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
