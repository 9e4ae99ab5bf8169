"""One call of `fit`: what it can use of the score table, the rows it adds, the gate it fits, the account it keeps."""
