"""PAP-REC (arXiv 2402.00284): words at the end of a prompt, searched by gradients, for everybody or for one user."""
