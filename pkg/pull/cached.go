package pull

import (
	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/model"
)

// Piece is a layer as far as it matters to whether a node has it. It travels from those who know an artifact to the
// puller whose store may hold it.
type Piece struct {
	// Blob is the layer as the manifest describes it.
	Blob model.Blob `json:"blob"`
	// Archive, Compressed and Named say how the blob is read, as format.Layer does; Named is that it has a path.
	Archive    bool `json:"archive,omitempty"`
	Compressed bool `json:"compressed,omitempty"`
	Named      bool `json:"named,omitempty"`
}

// Pieces are the artifact's Layers, in their order.
func (a *Artifact) Pieces() []Piece {
	layers := a.Layers()
	out := make([]Piece, 0, len(layers))
	for _, l := range layers {
		out = append(out, Piece{Blob: l.Blob, Archive: l.Archive, Compressed: l.Compressed, Named: l.Path != ""})
	}
	return out
}

// Has reports of each piece whether the store has all of it: the file that it is, or every file of the archive that it
// is. The files of an archive are known once it was pulled, by whichever artifact names it. No registry is asked, so it
// says nothing of who may have the piece.
func (p *Puller) Has(pieces []Piece) []bool {
	out := make([]bool, 0, len(pieces))
	for _, x := range pieces {
		l := format.Layer{Blob: x.Blob, Archive: x.Archive, Compressed: x.Compressed}
		if x.Named {
			l.Path = "file"
		}
		out = append(out, p.present(l))
	}
	return out
}
