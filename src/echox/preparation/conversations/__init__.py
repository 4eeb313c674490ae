"""From public questions to spoken conversations: questions are chosen, a language model replies, voices speak."""
