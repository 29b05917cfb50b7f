"""What is done to the peers; a module for each, with a function `measure`."""
