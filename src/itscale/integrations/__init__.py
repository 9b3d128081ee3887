"""itscale inside other people's tools. Each file needs the tool it is named for, which imports it."""
