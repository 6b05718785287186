// A third verifier, on golang.org/x/mod/sumdb as distributions ship it: opens the checkpoint with the log's key, hashes every
// entry of the tlog-tiles layout, and compares tiles and root. Usage: verify_tiles VKEY DIR. Exit 0 intact, 1 not.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func die(format string, words ...interface{}) {
	fmt.Printf("not intact: "+format+"\n", words...)
	os.Exit(1)
}

func number(n int64) string {
	out := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		out = fmt.Sprintf("x%03d/", n%1000) + out
	}
	return out
}

func read(dir, kind string, n, count int64) []byte {
	name := filepath.Join(dir, "tile", kind, number(n))
	if count < 256 {
		name += fmt.Sprintf(".p/%d", count)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		die("%v", err)
	}
	return data
}

func main() {
	verifier, err := note.NewVerifier(os.Args[1])
	if err != nil {
		die("%v", err)
	}
	dir := os.Args[2]
	text, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		die("%v", err)
	}
	opened, err := note.Open(text, note.VerifierList(verifier))
	if err != nil {
		die("%v", err)
	}
	var origin, root string
	var size int64
	if _, err := fmt.Sscanf(opened.Text, "%s\n%d\n%s\n", &origin, &size, &root); err != nil {
		die("%v", err)
	}
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range indexes {
			out = append(out, hashes[i])
		}
		return out, nil
	})
	for index := int64(0); index < size; index += 256 {
		count := size - index
		if count > 256 {
			count = 256
		}
		data := read(dir, "entries", index/256, count)
		level0 := read(dir, "0", index/256, count)
		for k := int64(0); k < count; k++ {
			if len(data) < 2 || len(data) < 2+int(data[0])<<8+int(data[1]) {
				die("bundle %d is short", index/256)
			}
			length := int(data[0])<<8 | int(data[1])
			more, err := tlog.StoredHashes(index+k, data[2:2+length], reader)
			if err != nil {
				die("%v", err)
			}
			if string(more[0][:]) != string(level0[32*k:32*k+32]) {
				die("entry %d is not the one its tile has", index+k)
			}
			hashes = append(hashes, more...)
			data = data[2+length:]
		}
	}
	tree, err := tlog.TreeHash(size, reader)
	if err != nil || tree.String() != root {
		die("the root of size %d is %v, signed is %s", size, tree, root)
	}
	for index := int64(0); index < size; index += 97 {
		proof, err := tlog.ProveRecord(size, index, reader)
		if err != nil || tlog.CheckRecord(proof, size, tree, index, hashes[tlog.StoredHashIndex(0, index)]) != nil {
			die("no proof of entry %d", index)
		}
	}
	fmt.Printf("intact: %d entries of %s\n", size, origin)
}
