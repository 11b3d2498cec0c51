"""Commands of the video data engine: `pe engine run`, `prompts` and `refine`."""
