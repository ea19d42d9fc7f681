package pull

import (
	"errors"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/store"
)

// TestRooms lets two models share the room of a layer, and the second one go on with it when the first one ends.
func TestRooms(t *testing.T) {
	const mib = 1 << 20
	s, err := store.Open(t.TempDir(), store.Options{Policy: store.Policy{ReserveBytes: 1, MaxBytes: 15 * mib}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	var r rooms
	first, second := &job{}, &job{}
	shared := map[string]store.Room{"shared": {Bytes: 10 * mib}}
	begin := func(j *job, needs map[string]store.Room, want int64) {
		t.Helper()
		need := r.expect(j, needs)
		if need.Bytes != want {
			t.Fatalf("%d bytes are to be reserved, want %d", need.Bytes, want)
		}
		reservation, err := s.Reserve(t.Context(), need)
		if err != nil {
			t.Fatal(err)
		}
		r.reserved(j, reservation)
	}
	end := func(j *job, needs map[string]store.Room) {
		r.forget(j, needs)
		j.reserved.Release()
	}
	free := func(bytes int64) bool {
		t.Helper()
		reservation, err := s.Reserve(t.Context(), store.Room{Bytes: bytes})
		if errors.Is(err, model.ErrNoSpace) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		reservation.Release()
		return true
	}
	begin(first, shared, 10*mib)
	more := map[string]store.Room{"shared": {Bytes: 10 * mib}, "own": {Bytes: 2 * mib}}
	begin(second, more, 2*mib)
	if !free(3*mib) || free(4*mib) {
		t.Fatal("the shared layer is reserved other than once")
	}
	r.spend("shared", store.Room{Bytes: 4 * mib})
	end(first, shared)
	if !free(7*mib) || free(8*mib) {
		t.Fatal("the second model did not take the rest of the reservation over")
	}
	r.spend("shared", store.Everything)
	if !free(13*mib) || free(14*mib) {
		t.Fatal("what was spent is still reserved")
	}
	end(second, more)
	if !free(15*mib) || len(r.layers) != 0 {
		t.Fatal("something is still reserved")
	}

	// The first one never gets its room: nobody inherits what there is not.
	first, second = &job{}, &job{}
	r.expect(first, shared)
	begin(second, shared, 0)
	r.forget(first, shared)
	if !free(15 * mib) {
		t.Fatal("room was inherited that nobody had")
	}
	end(second, shared)
}

func TestCachePolicy(t *testing.T) {
	for _, tt := range []struct {
		mode          WriteMode
		bytes, memory int64
		want          store.CachePolicy
	}{
		{WriteAuto, 1 << 30, 2 << 30, store.CacheCheap},
		{WriteAuto, 1<<30 + 1, 2 << 30, store.CacheNone},
		{WriteAuto, 1 << 30, 0, store.CacheNone},
		{WriteAuto, 1 << 30, -1, store.CacheNone},
		{"", 1 << 30, 2 << 30, store.CacheCheap},
		{WriteDirect, 1, 2 << 30, store.CacheNone},
		{WriteBuffered, 1 << 40, 2 << 30, store.CacheAll},
	} {
		if got := cachePolicy(tt.mode, tt.bytes, tt.memory); got != tt.want {
			t.Errorf("%s, %d bytes with %d of memory: %v, want %v", tt.mode, tt.bytes, tt.memory, got, tt.want)
		}
	}
}

// A job that tries again has no reservation until it has made a new one: nothing may be handed to the one that it has
// released, which would never come back.
func TestRoomsOfSecondAttempt(t *testing.T) {
	const mib = 1 << 20
	s, err := store.Open(t.TempDir(), store.Options{Policy: store.Policy{ReserveBytes: 1, MaxBytes: 15 * mib}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	var r rooms
	reserve := func(j *job, need store.Room) *store.Reservation {
		t.Helper()
		reservation, err := s.Reserve(t.Context(), need)
		if err != nil {
			t.Fatal(err)
		}
		r.reserved(j, reservation)
		return reservation
	}
	needs := map[string]store.Room{"layer": {Bytes: 10 * mib}}
	again, other := &job{}, &job{}
	first := reserve(again, r.expect(again, needs))
	r.forget(again, needs)
	first.Release()
	owner := reserve(other, r.expect(other, needs))
	r.expect(again, needs)
	r.forget(other, needs)
	owner.Release()
	r.forget(again, needs)
	if all, err := s.Reserve(t.Context(), store.Room{Bytes: 14 * mib}); err != nil {
		t.Errorf("room is lost: %v", err)
	} else {
		all.Release()
	}
}
