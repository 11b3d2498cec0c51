"""`python -m perception_encoder`, and `torchrun -m perception_encoder train …`: the `pe` command."""

from perception_encoder.cli.main import main

if __name__ == "__main__":
    main()
