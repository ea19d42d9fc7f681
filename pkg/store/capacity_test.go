package store

import "testing"

func TestCapacity(t *testing.T) {
	disk, err := open(t, t.TempDir(), Options{}).Capacity()
	if err != nil || disk <= 0 {
		t.Fatalf("without a limit: %d, %v", disk, err)
	}
	for limit, want := range map[int64]int64{1 << 20: 1 << 20, 1 << 62: disk} {
		s := open(t, t.TempDir(), Options{Policy: Policy{ReserveBytes: 1, MaxBytes: limit}})
		if got, err := s.Capacity(); err != nil || got != want {
			t.Errorf("with a limit of %d: %d, %v; want %d", limit, got, err, want)
		}
	}
}
