package config

import (
	"testing"
	"time"
)

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "1": 1, "1000000": 1000000, "1k": 1000, "1Ki": 1024, "512Mi": 512 << 20, "50Gi": 50 << 30,
		"1.5Gi": 3 << 29, "0.5Ti": 1 << 39, "2T": 2e12, "1.001k": 1001, "8191Pi": 8191 << 50, "9223372036854775807": 1<<63 - 1,
	} {
		got, err := ParseBytes(text)
		if err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d", text, got, err, want)
		}
		if again, err := ParseBytes(got.String()); err != nil || again != got {
			t.Errorf("ParseBytes(%q.String() = %q) = %d, %v", text, got.String(), again, err)
		}
	}
	for _, text := range []string{
		"", "Gi", "-1", "+1", "1K", "1gi", "1 Gi", "1e3", "0x10", "1_000", ".5", "5.", "1.2.3", "1.5", "0.3Ki",
		"8192Pi", "99999999999999999999", "000000000000000000000000000000001", "1/2", "١",
	} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("ParseBytes(%q) = %d, want an error", text, got)
		}
	}
}

func TestBytesString(t *testing.T) {
	for b, want := range map[Bytes]string{0: "0", 1: "1", 1023: "1023", 1024: "1Ki", 3 << 29: "1536Mi", 1500000: "1500k", 1023 << 10: "1023Ki", 1e12: "1T"} {
		if got := b.String(); got != want {
			t.Errorf("Bytes(%d).String() = %q, want %q", int64(b), got, want)
		}
	}
}

func TestReserve(t *testing.T) {
	const disk = 1000
	for text, want := range map[string]int64{"10%": 100, "2.5%": 25, "0%": 0, "0": 0, "300": 300, "99.9%": 999} {
		r, err := ParseReserve(text)
		if err != nil || r.Of(disk) != want {
			t.Errorf("ParseReserve(%q).Of(%d) = %d, %v; want %d", text, disk, r.Of(disk), err, want)
		}
		if again, err := ParseReserve(r.String()); err != nil || again != r {
			t.Errorf("ParseReserve(%q) = %+v, %v; want %+v", r.String(), again, err, r)
		}
	}
	for _, text := range []string{"", "%", "-1%", "100%", "1e1%", "NaN%", "10 %", "10%%"} {
		if r, err := ParseReserve(text); err == nil {
			t.Errorf("ParseReserve(%q) = %+v, want an error", text, r)
		}
	}
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", 10 * time.Minute: "10m", 24 * time.Hour: "24h", 90 * time.Minute: "1h30m",
		30*time.Hour + 10*time.Second: "30h0m10s", 100 * time.Millisecond: "100ms",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("formatDuration(%s) = %q, want %q", d, got, want)
		}
		if again, err := parseDuration(formatDuration(d)); err != nil || again != d {
			t.Errorf("parseDuration(%q) = %s, %v", formatDuration(d), again, err)
		}
	}
}
