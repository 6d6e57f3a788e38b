"""The read-only web page, and the guards that stand before everything on its port."""
