"""Questions about images and videos in the layouts that their datasets are published in."""
