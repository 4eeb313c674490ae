"""Step-by-step decoding: key-value memory by rows, lean and static steps of a Llama, sampling."""
