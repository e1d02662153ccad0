"""Downloads, verified: from addresses, the Hugging Face hub and the package index."""
