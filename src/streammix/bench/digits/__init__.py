"""The digits suite: how many digits of every entry are right, against how far apart the logits are."""
