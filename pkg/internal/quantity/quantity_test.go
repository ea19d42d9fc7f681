package quantity

import "testing"

func TestParse(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1": 1, "1000000": 1e6, "512Mi": 512 << 20, "50Gi": 50 << 30, "1.5T": 15e11, "0.5Ki": 512, "3Pi": 3 << 50,
	} {
		got, err := Parse(text)
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v; want %d", text, got, err, want)
		}
		if again, err := Parse(Format(got)); err != nil || again != got {
			t.Errorf("Parse(Format(%d)) = %d, %v", got, again, err)
		}
	}
	for _, text := range []string{"", "Gi", "-1", "1e3", "1 Gi", "1GB", "0x1", ".5Gi", "1.", "0.3", "9999999Pi", "1_000", "+1"} {
		if got, err := Parse(text); err == nil {
			t.Errorf("Parse(%q) = %d, want an error", text, got)
		}
	}
}

func TestParsePercent(t *testing.T) {
	for text, want := range map[string]float64{"10%": 10, "2.5%": 2.5, "0%": 0, "150%": 150} {
		got, ok, err := ParsePercent(text)
		if err != nil || !ok || got != want {
			t.Errorf("ParsePercent(%q) = %v, %v, %v; want %v", text, got, ok, err, want)
		}
		if again, _, err := ParsePercent(FormatPercent(got)); err != nil || again != got {
			t.Errorf("ParsePercent(FormatPercent(%v)) = %v, %v", got, again, err)
		}
	}
	if _, ok, err := ParsePercent("10Gi"); ok || err != nil {
		t.Errorf("a size is taken for a percentage: %v, %v", ok, err)
	}
	for _, text := range []string{"%", "x%", "-1%", "1e2%", "NaN%"} {
		if got, ok, err := ParsePercent(text); !ok || err == nil {
			t.Errorf("ParsePercent(%q) = %v, %v; want an error", text, got, ok)
		}
	}
}
