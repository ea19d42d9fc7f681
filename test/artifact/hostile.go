package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Hostile is an artifact that somebody made to do harm, and what has to come of it.
type Hostile struct {
	Name   string
	Layers []HostileLayer
	// Image makes the layers those of a container image.
	Image bool
	// Manifest is used instead of one that is made of the layers.
	Manifest []byte
	// Edit changes the text of the manifest that is made of the layers.
	Edit func(manifest string) string
	// Codes are the gRPC codes of a refusal that are right, in words.
	Codes []string
	// Tree is what is shown otherwise: "f " and the content of a file, "x " of an executable one, "l " and the target of a
	// link, "d" for a directory, by path. With "*" it only has to be there, with "?" it may be.
	Tree map[string]string
}

// HostileLayer is a layer of a hostile artifact.
type HostileLayer struct {
	MediaType string
	// Path is its annotation; empty for none.
	Path    string
	Content []byte
	// Spoil changes the descriptor.
	Spoil func(*ocispec.Descriptor)
}

// Attack is what a hostile artifact tries.
type Attack string

// The attacks of the corpus.
const (
	Traversal    Attack = "traversal"     // names and paths that lead elsewhere
	Links        Attack = "links"         // symbolic and hard links that lead elsewhere, in archives and images
	SpecialFiles Attack = "special files" // types, modes, owners and attributes that no model needs
	Bombs        Attack = "bombs"         // sizes, counts, ratios, and streams that do not end or do not begin
	Digests      Attack = "digests"       // descriptors that lie
	Confusion    Attack = "confusion"     // manifests that two readers would read differently
)

// Corpus is every hostile artifact, by what it tries. outside is an absolute path that none of them may reach.
func Corpus(outside string) map[Attack][]Hostile {
	return map[Attack][]Hostile{
		Traversal:    append(hostileNames(outside), hostilePaths(outside)...),
		Links:        append(hostileLinks(outside), hostileImages(outside)...),
		SpecialFiles: hostileTypes(outside),
		Bombs:        append(hostileSizes(), hostileStreams()...),
		Digests:      hostileDescriptors(),
		Confusion:    hostileDocuments(),
	}
}

// Media types of the layers.
const (
	rawLayer  = "application/vnd.cncf.model.weight.v1.raw"
	tarLayer  = "application/vnd.cncf.model.weight.v1.tar"
	gzipLayer = "application/vnd.cncf.model.weight.v1.tar+gzip"
	zstdLayer = "application/vnd.cncf.model.weight.v1.tar+zstd"
)

// The kinds of refusal.
var (
	refused  = []string{"InvalidArgument"}
	damaged  = []string{"DataLoss"}
	tooLarge = []string{"OutOfRange"}
)

// entry writes a part of a tar: headers with their content, and whatever else bytes can be.
type entry []byte

func headerEntry(h tar.Header, content string) entry {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if h.Mode == 0 {
		h.Mode = 0o644
	}
	h.Size = int64(len(content))
	if err := w.WriteHeader(&h); err != nil {
		panic(fmt.Sprintf("hostile tar %q: %v", h.Name, err)) // a mistake in the corpus
	}
	_, _ = w.Write([]byte(content))
	if err := w.Flush(); err != nil {
		panic(fmt.Sprintf("hostile tar %q: %v", h.Name, err))
	}
	return b.Bytes()
}

func file(name, content string) entry {
	return headerEntry(tar.Header{Name: name, Typeflag: tar.TypeReg}, content)
}

func symlink(name, to string) entry {
	return headerEntry(tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}, "")
}

func hardlink(name, to string) entry {
	return headerEntry(tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}, "")
}

func dir(name string) entry {
	return headerEntry(tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, "")
}

// block is a header that no tar program would write: the fields are put in as they are.
func block(name string, flag byte, size, link string, edit ...func([]byte)) entry {
	b := make([]byte, 512)
	copy(b[0:100], name)
	copy(b[100:108], "0000644\x00")
	copy(b[108:116], "0000000\x00")
	copy(b[116:124], "0000000\x00")
	copy(b[124:136], size)
	copy(b[136:148], "00000000000\x00")
	b[156] = flag
	copy(b[157:257], link)
	copy(b[257:265], "ustar\x0000")
	for _, f := range edit {
		f(b)
	}
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// badSum spoils a header's checksum.
func badSum(e entry) entry {
	out := bytes.Clone(e)
	copy(out[148:156], "000001\x00 ")
	return out
}

// octal is a size field.
func octal(n int64) string { return fmt.Sprintf("%011o\x00", n) }

// base256 is a size field of GNU tar for large numbers, and for negative ones.
func base256(n int64) string {
	var b [12]byte
	if n < 0 {
		for i := range b {
			b[i] = 0xff
		}
	}
	binary.BigEndian.PutUint64(b[4:], uint64(n))
	b[0] |= 0x80
	return string(b[:])
}

// padded fills content up to whole blocks.
func padded(content string) entry {
	return append([]byte(content), make([]byte, (512-len(content)%512)%512)...)
}

// pax puts records in front of an entry: pairs of keys and values, of any content.
func pax(flag byte, records ...string) entry {
	var text strings.Builder
	for i := 0; i+1 < len(records); i += 2 {
		record := " " + records[i] + "=" + records[i+1] + "\n"
		size := len(record)
		for size != len(record)+len(strconv.Itoa(size)) {
			size = len(record) + len(strconv.Itoa(size))
		}
		text.WriteString(strconv.Itoa(size) + record)
	}
	return append(block("PaxHeaders/x", flag, octal(int64(text.Len())), ""), padded(text.String())...)
}

// archiveOf joins the parts and ends the archive.
func archiveOf(parts ...entry) []byte { return append(open(parts...), make([]byte, 1024)...) }

// open joins the parts without an end.
func open(parts ...entry) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func gzipped(content []byte) []byte {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	_, _ = z.Write(content)
	_ = z.Close()
	return b.Bytes()
}

func zstded(content []byte) []byte {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		panic(err) // the options are constant
	}
	return z.EncodeAll(content, nil)
}

// safe is what most of the archives hold besides: it shows that the rest was not the reason.
var safe = file("safe.txt", "safe")
