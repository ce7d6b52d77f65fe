"""Dense captions: what happens when in a video, asked of a model window by window, or imported."""
