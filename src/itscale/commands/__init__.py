"""What commands share (`sources`), and the commands that are not in `cli.py`."""
