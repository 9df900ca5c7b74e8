"""Data shards: text of any size, tokenised once by several processes into files that runs read.

DIR/index.json                  what the data are: tokenizer, vocabulary, dtype, and each shard's tokens, bytes and hash
DIR/settings.json               by what rules shards are made; written first
DIR/tokenizer.json              a copy of the tokenizer, unless tokens are bytes
DIR/shards/NAME/train.bin       tokens to train on: unsigned integers of the index's dtype, little-endian, nothing else
               /val.bin         tokens held out
               /shard.json      its entry of the index
"""
