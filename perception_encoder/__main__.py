"""`python -P -m perception_encoder`: the `pe` command. Without -P, Python imports modules of the current directory."""

from perception_encoder.cli.main import main

if __name__ == "__main__":
    main()
