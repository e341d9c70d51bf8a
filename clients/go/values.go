package creditclient

import (
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/genproto/googleapis/type/decimal"
	"google.golang.org/genproto/googleapis/type/money"
)

const (
	nanosPerPaisa = 10_000_000
	paisePerRupee = 100
)

// Rupees returns whole rupees as Money in INR.
func Rupees(rupees int64) *money.Money { return Paise(rupees * paisePerRupee) }

// Paise returns an amount in paise as Money in INR.
func Paise(paise int64) *money.Money {
	return &money.Money{
		CurrencyCode: "INR",
		Units:        paise / paisePerRupee,
		Nanos:        int32(paise%paisePerRupee) * nanosPerPaisa,
	}
}

// InPaise returns the paise of a Money.
func InPaise(amount *money.Money) int64 {
	return amount.GetUnits()*paisePerRupee + int64(amount.GetNanos()/nanosPerPaisa)
}

// InRupees returns the rupees of a Money as text with two decimals: "8884.88".
func InRupees(amount *money.Money) string {
	paise, minus := InPaise(amount), ""
	if paise < 0 {
		paise, minus = -paise, "-"
	}
	return fmt.Sprintf("%s%d.%02d", minus, paise/paisePerRupee, paise%paisePerRupee)
}

// Percent returns an annual rate in percent, for example "12.5".
func Percent(rate string) *decimal.Decimal { return &decimal.Decimal{Value: rate} }

// On returns a day.
func On(year int, month time.Month, day int) *date.Date {
	return &date.Date{Year: int32(year), Month: int32(month), Day: int32(day)}
}
