// Package cli tells what the commands do, as stories in testscript files that run the real binary against a real registry.
//
// Each file of testdata is one story. Besides testscript's own commands it has:
//
//	model DIR                a small model, another one in every story: safetensors in two shards, config.json, tokenizer, model card, code, a hidden file
//	random FILE SIZE SEED    a file of so many random bytes, the same for the same seed
//	sametree DIR DIR         fails unless both have the same files with the same content and execute bits
//	registry NAME [option]   a registry whose address becomes $NAME. Options: tokens (bearer tokens for user and secret)
//	fault METHOD KIND SKIP TIMES STATUS
//	                         so many requests of a kind (upload, blob, manifest) at $REGISTRY get the status after so many
//	slow METHOD KIND         the next such request at $REGISTRY is not answered while the story runs; awaitslow waits for it
//	sent METHOD KIND N       fails unless so many requests of a kind were made since the last call, at $REGISTRY
//	stdout2env VAR           the last line of the last stdout becomes a variable
//	artifact GENERATION PACKING DIR REPOSITORY:TAG
//	                         pushes a directory as other producers do, to $REGISTRY; ollama and index are of the same kind
//	hub DIR ORG/NAME [TOKEN] a Hugging Face Hub at $HF_ENDPOINT with the files, for everybody or for the token
//	stall FILE AFTER         downloads of the file's bytes at $REGISTRY stop after so many, until unstall
//	pace BYTES               $REGISTRY sends so much a second on each connection
//	received AT-MOST         fails if $REGISTRY sent more bytes of blobs since the last call of received or sent
//	daemon [FLAG...]         a node with its state at $ROOT; publish VOLUME REFERENCE [ATTRIBUTE=VALUE...], which gives up after
//	                         two seconds where it is to fail, and unpublish VOLUME ask it as kubelet does, at $TARGET
//	discovering NAME REPOSITORY
//	                         the story's registry at $NAME, where it mounts blobs of the repository without being told its name
//	everybody                opens the story's directory and the binaries to other users
//
// Every story starts with a registry of its own at $REGISTRY, and with $HOME and $DOCKER_CONFIG in its own directory.
// On the PATH are model-csi, oras and crane.
package cli
