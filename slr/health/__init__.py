"""What `python -m slr.doctor` looks at, each in a child process that may break."""
