"""``python -m recsys_vae`` is the command line."""

from recsys_vae.cli.main import entry_point

if __name__ == "__main__":
    entry_point()
