package pull

import (
	"strings"
	"sync"

	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/store"
)

// rooms know which running job has the room of each layer reserved, so that models that share a layer reserve its room
// once. When that job ends before the layer is there, another one that waits for it takes the reservation over.
type rooms struct {
	mu     sync.Mutex // guards what follows
	layers map[string]*layerRoom
}

type layerRoom struct {
	owner  *job
	others []*job
	left   store.Room
}

// expect notes what layers will take on disk, by transferKey, and returns what nobody has reserved yet. The caller
// reserves that for the job, and calls forget at the job's end in any case.
func (r *rooms) expect(j *job, needs map[string]store.Room) store.Room {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.layers == nil {
		r.layers = make(map[string]*layerRoom)
	}
	j.reserved = nil // what an earlier attempt of the job had was released, and must not be given anything
	var sum store.Room
	for key, need := range needs {
		if l := r.layers[key]; l != nil {
			l.others = append(l.others, j)
			continue
		}
		r.layers[key] = &layerRoom{owner: j, left: need}
		sum = sum.Plus(need)
	}
	return sum
}

// spend tells the reservation that room of the layer was taken, up to what was reserved for the layer.
func (r *rooms) spend(key string, room store.Room) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.layers[key]
	if l == nil || l.owner.reserved == nil {
		return
	}
	room = store.Room{Bytes: min(room.Bytes, l.left.Bytes), Inodes: min(room.Inodes, l.left.Inodes)}
	l.left = l.left.Minus(room)
	l.owner.reserved.Spend(room)
}

// forget ends the part of a job in the layers, and hands over what others go on to need.
func (r *rooms) forget(j *job, needs map[string]store.Room) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range needs {
		l := r.layers[key]
		if l == nil {
			continue
		}
		for i, other := range l.others {
			if other == j {
				l.others = append(l.others[:i:i], l.others[i+1:]...)
				break
			}
		}
		if l.owner != j {
			continue
		}
		delete(r.layers, key)
		for i, next := range l.others {
			if next.reserved == nil {
				continue // it has not come to reserving, or failed to
			}
			left := store.Room{}
			if j.reserved != nil {
				left = l.left
				j.reserved.Give(next.reserved, left)
			}
			r.layers[key] = &layerRoom{owner: next, others: append(l.others[:i:i], l.others[i+1:]...), left: left}
			break
		}
	}
}

// reserved makes the reservation known to the others.
func (r *rooms) reserved(j *job, reservation *store.Reservation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	j.reserved = reservation
}

// room is what a layer that is not there will take on disk, beyond what it has allocated already.
func (p *Puller) room(j *job, l format.Layer) store.Room {
	room := store.Room{Bytes: expanded(l), Inodes: 2} // the file and what stands beside it: a checkpoint, a directory of the view
	if !unpacked(l) {
		room.Bytes = max(0, room.Bytes-p.opts.Store.Unfinished(l.Blob, j.repositoryOf(l)))
	}
	return room
}

// expanded is what the files of a layer take, in bytes.
func expanded(l format.Layer) int64 {
	if unpacked(l) && !strings.HasSuffix(l.MediaType, "tar") {
		return l.Blob.Size + l.Blob.Size/2 // compressed: a guess; the disk is looked at as the files are written
	}
	return l.Blob.Size
}
