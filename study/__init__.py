"""Many trials on Ray: study files, the search, the launcher, the command line. Never imports torch."""
