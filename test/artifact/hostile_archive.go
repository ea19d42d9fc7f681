package artifact

import (
	"archive/tar"
	"bytes"
	"fmt"
	"path"
	"strings"
)

func inTar(name string, codes []string, parts ...entry) Hostile {
	return Hostile{Name: "tar: " + name, Layers: []HostileLayer{{MediaType: tarLayer, Content: archiveOf(parts...)}}, Codes: codes}
}

// shown is an archive that is accepted and shows the tree: pairs of paths and what Hostile.Tree says of them.
func shown(name string, tree []string, parts ...entry) Hostile {
	h := inTar(name, nil, parts...)
	h.Tree = map[string]string{}
	for i := 0; i+1 < len(tree); i += 2 {
		h.Tree[tree[i]] = tree[i+1]
	}
	return h
}

func hostileNames(outside string) []Hostile {
	out := []Hostile{
		inTar("name as a path with NUL", damaged, pax('x', "path", "a\x00../evil"), file("x", "x"), safe),
		shown("NUL in the name field", []string{"a", "f x", "safe.txt", "f safe"}, block("a\x00/../../evil", '0', octal(1), ""), padded("x"), safe),
		inTar("ustar prefix up", refused, block("evil", '0', octal(1), "", func(b []byte) { copy(b[345:], "../../..") }), padded("x"), safe),
		inTar("PAX path up", refused, pax('x', "path", "../../evil"), file("x", "x"), safe),
		inTar("PAX path absolute", refused, pax('x', "path", outside+"/evil"), file("x", "x"), safe),
		inTar("GNU long name up", refused, block("././@LongLink", 'L', octal(11), ""), padded("../../evil\x00"), file("x", "x"), safe),
		inTar("name of 5,000 bytes", tooLarge, file(strings.Repeat("long/", 1000)+"x", "x"), safe),
		inTar("component of 300 bytes", refused, file(strings.Repeat("l", 300), "x"), safe),
		inTar("200 directories deep", refused, file(strings.Repeat("d/", 200)+"x", "x"), safe),
		inTar("not UTF-8", refused, block("a\xff\xfe", '0', octal(1), ""), padded("x"), safe),
		inTar("no name", refused, block("", '0', octal(1), ""), padded("x"), safe),
		inTar("file below a file", refused, file("a", "x"), file("a/b", "y"), safe),
		inTar("nothing but the root", refused, dir("./")),
		shown("the root as a file", []string{"safe.txt", "f safe"}, block(".", '0', octal(1), ""), padded("x"), safe),
		shown("backslashes", []string{`..\evil`, "f x", "safe.txt", "f safe"}, file(`..\evil`, "x"), safe),
		shown("dots that are names", []string{"..../evil", "f x", "safe.txt", "f safe"}, file("..../evil", "x"), safe),
		shown("directories that sort before the root", []string{"-x/ y/a", "f x", "+/b", "f y", "safe.txt", "f safe"}, file("-x/ y/a", "x"), file("+/b", "y"), safe),
		shown("percent signs", []string{"%2e%2e/evil", "f x", "safe.txt", "f safe"}, file("%2e%2e/evil", "x"), safe),
		shown("wide dots", []string{"．．/evil", "f x", "safe.txt", "f safe"}, file("．．/evil", "x"), safe),
		shown("control characters", []string{"a\n\x1b[31mb", "f x", "safe.txt", "f safe"}, file("a\n\x1b[31mb", "x"), safe),
		shown("the same name twice", []string{"a", "f second", "safe.txt", "f safe"}, file("a", "first"), file("a", "second"), safe),
		shown("the same name in other forms", []string{"a/b", "f third", "safe.txt", "f safe"}, file("a/b", "first"), file("./a/./b", "second"), file("a//b", "third"), safe),
		shown("names that differ in case", []string{"A", "f 1", "a", "f 2", "safe.txt", "f safe"}, file("A", "1"), file("a", "2"), safe),
		shown("names that differ in composition", []string{"\u00e9", "f 1", "e\u0301", "f 2", "safe.txt", "f safe"}, file("\u00e9", "1"), file("e\u0301", "2"), safe),
		shown("names that look like ours", []string{".tmp-1", "f x", "blobs/sha256/x.part", "f x", "leases/x.json", "f x", "safe.txt", "f safe"},
			file(".tmp-1", "x"), file("blobs/sha256/x.part", "x"), file("leases/x.json", "x"), safe),
		shown("whiteouts where there are no layers", []string{".wh.safe.txt", "f x", ".wh..wh..opq", "f y", "safe.txt", "f safe"},
			file(".wh.safe.txt", "x"), file(".wh..wh..opq", "y"), safe),
		shown("a global PAX path", []string{"a", "f x", "safe.txt", "f safe"}, pax('g', "path", "../../evil"), file("a", "x"), safe),
	}
	for _, name := range []string{"../evil", "a/../../evil", "./../evil", "..", "a/..", "a/./../../evil", outside + "/evil", "//evil", "/../../evil", "a/../b", "../../../../../../../../etc/cron.d/evil"} {
		out = append(out, inTar("named "+name, refused, block(name, '0', octal(1), ""), padded("x"), safe))
	}
	return out
}

func hostileLinks(outside string) []Hostile {
	var chain []entry
	for i := range 100 {
		chain = append(chain, symlink(fmt.Sprintf("l%d", i), fmt.Sprintf("l%d", i+1)))
	}
	// Each of these links leads twice through the one before: to follow the last takes 2^30 steps.
	tangled := []entry{dir("d")}
	for i := range 30 {
		to := "d"
		if i > 0 {
			to = fmt.Sprintf("t%d/../t%d", i-1, i-1)
		}
		tangled = append(tangled, symlink(fmt.Sprintf("t%d", i), to))
	}
	return []Hostile{
		inTar("link up", refused, symlink("l", "../../../etc/passwd"), safe),
		inTar("link up from below", refused, symlink("a/b/l", "../../../x"), safe),
		inTar("link absolute", refused, symlink("l", outside), safe),
		inTar("write through a link", refused, symlink("d", outside), file("d/evil", "x"), safe),
		inTar("write through a link inside", refused, dir("real"), symlink("d", "real"), file("d/evil", "x"), safe),
		inTar("write through a link to the root", refused, symlink("d", "."), file("d/evil", "x"), safe),
		inTar("link through a link out", refused, symlink("a", "b/.."), symlink("b", "../.."), safe),
		inTar("link through a link's parent", refused, dir("x/y"), symlink("a", "x/y"), symlink("b", "a/../../../../etc"), safe),
		inTar("link to itself", refused, symlink("l", "l"), safe),
		inTar("links in a circle", refused, symlink("a", "b"), symlink("b", "a"), safe),
		inTar("chain of 100 links", refused, append(chain, safe)...),
		inTar("tangled links", []string{"OutOfRange", "InvalidArgument"}, append(tangled, safe)...),
		inTar("link of 5,000 bytes", tooLarge, symlink("l", strings.Repeat("a/", 2500)), safe),
		inTar("link of 200 components", refused, symlink("l", strings.Repeat("./", 200)+"safe.txt"), safe),
		inTar("link without a target", refused, block("l", '2', octal(0), ""), safe),
		inTar("link with NUL", damaged, pax('x', "linkpath", "a\x00/etc"), symlink("l", "a"), safe),
		inTar("file, then a link out in its place", refused, file("a", "x"), symlink("a", outside), safe),
		shown("link out, then a file in its place", []string{"a", "f x", "safe.txt", "f safe"}, symlink("a", outside), file("a", "x"), safe),
		shown("link to nothing", []string{"l", "l nothing", "safe.txt", "f safe"}, symlink("l", "nothing"), safe),
		shown("link inside", []string{"a/l", "l ../safe.txt", "safe.txt", "f safe"}, symlink("a/l", "../safe.txt"), safe),
		inTar("hard link absolute", refused, hardlink("h", "/etc/shadow"), safe),
		inTar("hard link up", refused, hardlink("h", "../../evil"), safe),
		inTar("hard link to a later file", refused, hardlink("h", "z"), file("z", "x"), safe),
		inTar("hard link to a directory", refused, dir("d"), hardlink("h", "d"), safe),
		inTar("hard link to itself", refused, hardlink("h", "h"), safe),
		inTar("hard links in a circle", refused, hardlink("a", "b"), hardlink("b", "a"), safe),
		inTar("hard link through a link", refused, symlink("d", outside), hardlink("h", "d/secret"), safe),
		inTar("hard link to a link out", refused, symlink("l", outside), hardlink("h", "l"), safe),
		shown("hard links to hard links", []string{"a", "f x", "b", "f x", "c", "f x", "safe.txt", "f safe"}, file("a", "x"), hardlink("b", "a"), hardlink("c", "./b"), safe),
		shown("hard link with content", []string{"a", "f x", "b", "f x", "safe.txt", "f safe"}, file("a", "x"), block("b", '1', octal(0), "a"), safe),
	}
}

func hostileTypes(outside string) []Hostile {
	special := func(name string, h tar.Header) Hostile {
		h.Name = "special"
		return inTar(name, refused, headerEntry(h, ""), safe)
	}
	return []Hostile{
		special("character device", tar.Header{Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}),
		special("block device", tar.Header{Typeflag: tar.TypeBlock, Devmajor: 8}),
		special("pipe", tar.Header{Typeflag: tar.TypeFifo}),
		inTar("a type that nobody has", refused, block("a", 'Z', octal(0), ""), safe),
		inTar("contiguous file", refused, block("a", '7', octal(1), ""), padded("x"), safe),
		shown("setuid, setgid and sticky", []string{"su", "x x", "safe.txt", "f safe"}, headerEntry(tar.Header{Name: "su", Typeflag: tar.TypeReg, Mode: 0o7777}, "x"), safe),
		shown("a directory that all may write", []string{"tmp", "d", "safe.txt", "f safe"}, headerEntry(tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o7777}, ""), safe),
		shown("nobody may read it", []string{"a", "f x", "safe.txt", "f safe"}, block("a", '0', octal(1), "", func(b []byte) { copy(b[100:108], "0000000\x00") }), padded("x"), safe),
		shown("owner and times", []string{"a", "f x", "safe.txt", "f safe"}, headerEntry(tar.Header{Name: "a", Typeflag: tar.TypeReg, Uid: 1000, Gid: 1000, Uname: "eve", Gname: "eve"}, "x"), safe),
		shown("extended attributes", []string{"a", "x x", "safe.txt", "f safe"},
			pax('x', "SCHILY.xattr.user.evil", "yes", "SCHILY.xattr.security.capability", "\x01\x00\x00\x02\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00",
				"LIBARCHIVE.xattr.security.selinux", "eA", "SCHILY.acl.access", "u::rwx,g::rwx,o::rwx"),
			headerEntry(tar.Header{Name: "a", Typeflag: tar.TypeReg, Mode: 0o755}, "x"), safe),
		inTar("a device where a file is later", []string{"InvalidArgument"}, headerEntry(tar.Header{Name: "a", Typeflag: tar.TypeBlock, Devmajor: 8}, ""), file("a", "x"), safe),
		inTar("a device through a link", refused, symlink("d", outside), headerEntry(tar.Header{Name: "d/sda", Typeflag: tar.TypeBlock, Devmajor: 8}, ""), safe),
	}
}

func hostileSizes() []Hostile {
	many := make([]entry, 0, 2100)
	for i := range 2100 {
		many = append(many, block(fmt.Sprintf("f%d", i), '0', octal(0), ""))
	}
	const hole = 1 << 40
	sparse := func(records ...string) []entry {
		return []entry{pax('x', append([]string{"GNU.sparse.major", "1", "GNU.sparse.minor", "0"}, records...)...)}
	}
	holes := append(sparse("GNU.sparse.name", "holes", "GNU.sparse.realsize", "1000"), block("x", '0', octal(512), ""), padded("0\n"), safe)
	huge := append(sparse("GNU.sparse.name", "huge", "GNU.sparse.realsize", fmt.Sprint(hole)), block("x", '0', octal(512), ""), padded("0\n"), safe)
	overlap := append(sparse("GNU.sparse.name", "x", "GNU.sparse.realsize", "1000"), block("x", '0', octal(1024), ""), padded("2\n0\n400\n200\n400\n"), padded("x"), safe)
	negative := append(sparse("GNU.sparse.name", "x", "GNU.sparse.realsize", "-1"), block("x", '0', octal(512), ""), padded("0\n"), safe)
	up := append(sparse("GNU.sparse.name", "../../evil", "GNU.sparse.realsize", "10"), block("x", '0', octal(512), ""), padded("0\n"), safe)
	return []Hostile{
		inTar("more files than max-files", tooLarge, many...),
		inTar("size of exabytes", tooLarge, block("a", '0', base256(1<<62), ""), safe),
		inTar("negative size", damaged, block("a", '0', base256(-1), ""), safe),
		inTar("size of words", damaged, block("a", '0', "many bytes", ""), safe),
		inTar("PAX size of exabytes", tooLarge, pax('x', "size", "9000000000000000000"), file("a", "x"), safe),
		inTar("PAX size negative", damaged, pax('x', "size", "-5"), file("a", "x"), safe),
		inTar("PAX size beyond numbers", damaged, pax('x', "size", strings.Repeat("9", 50)), file("a", "x"), safe),
		inTar("PAX header of 2 MiB", damaged, pax('x', "comment", strings.Repeat("c", 2<<20)), file("a", "x"), safe),
		inTar("PAX records that lie about their length", damaged, append(block("x", 'x', octal(9), ""), padded("99 a=b\nxx")...), file("a", "x"), safe),
		inTar("PAX header without an entry", []string{"DataLoss", "InvalidArgument"}, pax('x', "path", "a")),
		shown("100,000 PAX records", []string{"a", "f x", "safe.txt", "f safe"}, pax('x', manyRecords()...), file("a", "x"), safe),
		inTar("sparse file of a terabyte", tooLarge, huge...),
		inTar("sparse ranges that overlap", damaged, overlap...),
		inTar("sparse file of negative size", damaged, negative...),
		inTar("sparse file with a name up", refused, up...),
		shown("sparse file of holes", []string{"holes", "f " + strings.Repeat("\x00", 1000), "safe.txt", "f safe"}, holes...),
		inTar("wrong checksum", damaged, badSum(file("a", "x")), safe),
		inTar("garbage", damaged, bytes.Repeat([]byte("garbage "), 512)),
		inTar("garbage behind a file", damaged, safe, bytes.Repeat([]byte("garbage "), 512)),
		inTar("no entries", refused),
		{Name: "tar: nothing at all", Layers: []HostileLayer{{MediaType: tarLayer}}, Codes: []string{"InvalidArgument", "DataLoss"}},
		{Name: "tar: cut off in a header", Layers: []HostileLayer{{MediaType: tarLayer, Content: open(safe, file("a", "x"))[:1300]}}, Codes: damaged},
		{Name: "tar: cut off in a file", Layers: []HostileLayer{{MediaType: tarLayer, Content: open(safe, file("a", strings.Repeat("x", 5000)))[:3000]}}, Codes: damaged},
		{Name: "tar: no end", Layers: []HostileLayer{{MediaType: tarLayer, Content: open(safe)}}, Tree: map[string]string{"safe.txt": "f safe"}},
		{Name: "tar: another one behind the end", Layers: []HostileLayer{{MediaType: tarLayer, Content: append(archiveOf(safe), archiveOf(file("../evil", "x"))...)}}, Tree: map[string]string{"safe.txt": "f safe"}},
		{Name: "tar: garbage behind the end", Layers: []HostileLayer{{MediaType: tarLayer, Content: append(archiveOf(safe), bytes.Repeat([]byte("g"), 100_000)...)}}, Tree: map[string]string{"safe.txt": "f safe"}},
	}
}

func manyRecords() []string {
	out := make([]string, 0, 100_000)
	for i := range cap(out) / 2 {
		out = append(out, fmt.Sprintf("VENDOR.k%d", i), "v")
	}
	return out
}

func hostileStreams() []Hostile {
	layer := func(name, mediaType string, content []byte, codes []string) Hostile {
		h := Hostile{Name: name, Layers: []HostileLayer{{MediaType: mediaType, Content: content}}, Codes: codes}
		if codes == nil {
			h.Tree = map[string]string{"safe.txt": "f safe"}
		}
		return h
	}
	good := archiveOf(safe)
	// Compressed streams can be joined: 72 MiB are more than any archive may grow to without being looked at.
	const parts = 18
	zeros := make([]byte, 4<<20)
	head := open(block("zeros", '0', octal(parts*int64(len(zeros))), ""))
	gzipZeros, zstdZeros := bytes.Repeat(gzipped(zeros), parts), bytes.Repeat(zstded(zeros), parts)
	gzipBomb, zstdBomb := append(gzipped(head), gzipZeros...), append(zstded(head), zstdZeros...)
	wrongSum := bytes.Clone(gzipped(good))
	wrongSum[len(wrongSum)-6] ^= 0xff
	flipped := bytes.Clone(zstded(good))
	flipped[len(flipped)/2] ^= 0xff
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff}, make([]byte, 1000)...)
	return []Hostile{
		layer("gzip: bomb", gzipLayer, gzipBomb, tooLarge),
		layer("gzip: bomb sent as zstd", zstdLayer, gzipBomb, tooLarge),
		layer("gzip: bomb behind the end", gzipLayer, append(gzipped(good), gzipZeros...), tooLarge),
		layer("gzip: in gzip", gzipLayer, gzipped(gzipped(good)), damaged),
		layer("gzip: cut off", gzipLayer, gzipped(good)[:40], damaged),
		layer("gzip: nothing in it", gzipLayer, gzipped(nil), []string{"InvalidArgument", "DataLoss"}),
		layer("gzip: nothing but the magic", gzipLayer, []byte{0x1f, 0x8b}, damaged),
		layer("gzip: several members", gzipLayer, append(gzipped(good[:700]), gzipped(good[700:])...), nil),
		layer("gzip: garbage behind", gzipLayer, append(gzipped(good), "garbage"...), nil),
		layer("gzip: sent as plain tar", tarLayer, gzipped(good), nil),
		layer("gzip: sum at the end is wrong", gzipLayer, wrongSum, nil), // the digest of the layer vouches for the bytes
		layer("zstd: bomb", zstdLayer, zstdBomb, tooLarge),
		layer("zstd: window of two gigabytes", zstdLayer, []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00}, tooLarge),
		layer("zstd: window of terabytes", zstdLayer, []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0x00, 0x00}, []string{"OutOfRange", "DataLoss"}),
		layer("zstd: large window behind a small frame", zstdLayer, append(zstded(good[:512]), 0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00), []string{"OutOfRange", "DataLoss"}),
		layer("zstd: dictionary", zstdLayer, []byte{0x28, 0xb5, 0x2f, 0xfd, 0x03, 0x58, 1, 2, 3, 4, 0x01, 0x00, 0x00}, damaged),
		layer("zstd: damaged", zstdLayer, flipped, damaged),
		layer("zstd: cut off", zstdLayer, zstded(good)[:20], damaged),
		layer("zstd: endless skippable frame", zstdLayer, skippable, damaged),
		layer("zstd: several frames", zstdLayer, append(zstded(good[:700]), zstded(good[700:])...), nil),
		layer("bzip2", gzipLayer, []byte("BZh91AY&SY garbage of a bzip2 file"), damaged),
		layer("xz", tarLayer, []byte("\xfd7zXZ\x00 garbage of an xz file"), damaged),
		layer("zip", tarLayer, []byte("PK\x03\x04 garbage of a zip file"), damaged),
	}
}

// hostileImages have layers that remove and replace what lower layers hold.
func hostileImages(outside string) []Hostile {
	image := func(name string, tree map[string]string, codes []string, layers ...[]byte) Hostile {
		h := Hostile{Name: "image: " + name, Image: true, Tree: tree, Codes: codes}
		for _, l := range layers {
			h.Layers = append(h.Layers, HostileLayer{MediaType: "application/vnd.oci.image.layer.v1.tar", Content: l})
		}
		return h
	}
	lower := archiveOf(dir("d"), file("d/a", "lower"), safe)
	tree := func(pairs ...string) map[string]string {
		out := map[string]string{}
		for i := 0; i+1 < len(pairs); i += 2 {
			out[pairs[i]] = pairs[i+1]
		}
		return out
	}
	// In an image an absolute link leads to the image's own root. What is missing there may be made.
	var maybe []string
	for p := strings.Trim(outside, "/"); p != "."; p = path.Dir(p) {
		maybe = append(maybe, p, "?")
	}
	return []Hostile{
		image("whiteout up", nil, refused, lower, archiveOf(file("../.wh.blobs", ""))),
		image("whiteout of the parent", tree("d", "d", "d/a", "f lower", "safe.txt", "f safe"), nil, lower, archiveOf(file(".wh...", ""), file("d/.wh..", ""))),
		image("whiteout of nothing", tree("d", "d", "d/a", "f lower", "safe.txt", "f safe"), nil, lower, archiveOf(file(".wh.", ""), file("d/.wh.z", ""))),
		image("whiteout with a path in it", tree("d", "d", "d/a", "f lower", "safe.txt", "f safe"), nil, lower, archiveOf(file("d/.wh...", ""))),
		image("opaque root", tree("new", "f x"), nil, lower, archiveOf(file(".wh..wh..opq", ""), file("new", "x"))),
		image("whiteout through a link", tree("d", "d", "l", "l d", "safe.txt", "f safe"), nil, lower, archiveOf(symlink("l", "/d")), archiveOf(file("l/.wh.a", ""))),
		image("whiteout through a link out", tree(append(maybe, "d", "d", "d/a", "f lower", "l", "*", "safe.txt", "f safe")...), nil, lower, archiveOf(symlink("l", outside)), archiveOf(file("l/.wh.secret", ""))),
		image("write through a link out", nil, nil, lower, archiveOf(symlink("l", "../../../../..")), archiveOf(file("l/evil", "x"))).
			with(tree("d", "d", "d/a", "f lower", "evil", "f x", "l", "*", "safe.txt", "f safe")),
		image("links in a circle and a file below", nil, refused, lower, archiveOf(symlink("x", "y"), symlink("y", "x"), file("x/evil", "e"))),
		image("hard link to a link out", tree("d", "d", "d/a", "f lower", "h", "*", "l", "*", "safe.txt", "f safe"), nil, lower, archiveOf(symlink("l", outside), hardlink("h", "l"))),
		image("hard link up", nil, refused, lower, archiveOf(hardlink("h", "../../etc/shadow"))),
		image("devices", tree("d", "d", "d/a", "f lower", "safe.txt", "f safe"), nil, lower,
			archiveOf(headerEntry(tar.Header{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8}, ""), headerEntry(tar.Header{Name: "pipe", Typeflag: tar.TypeFifo}, ""))),
		image("name up", nil, refused, lower, archiveOf(file("a/../../evil", "x"))),
	}
}

func (h Hostile) with(tree map[string]string) Hostile {
	h.Tree = tree
	return h
}
