"""What is measured: a module each, with NAME, TITLE and run(bench)."""
