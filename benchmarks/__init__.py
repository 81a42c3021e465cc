"""What zappend costs, beside its peers and beside what its bytes cost: ``python -m benchmarks``.

Each benchmark is a module with ``run(setting)``, which returns tables. ``benchmarks/README.md`` says what is measured.
"""
