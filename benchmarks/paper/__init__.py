"""The paper's Tables 2 and 3 and its Figure 2: planned, run a process each, laid out beside the paper's own figures."""
