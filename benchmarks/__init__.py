"""Speed and exactness of kdloss beside its peers; README.md tells how to run both."""
