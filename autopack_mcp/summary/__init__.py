"""What tools, page, card and command line all show: runs, usage, models, and a block of text to paste into a chat."""
