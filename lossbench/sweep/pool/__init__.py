"""Worker processes of this machine, which live through a sweep."""
