//! Published keys: the p= bytes last read from DNS, refreshed in the background.
