"""Which scorecard decides, and which requests wait for a reviewer, in plain Python."""

from datetime import date, timedelta

from tests.model.loans import Facts

STANDARD = "standard-1"
PRUDENT = "prudent-1"


class Refused(Exception):  # noqa: N818 - a result, not a defect
    """A rejected request, with its reason."""


class Policies:
    """The scorecards and the referrals. Methods that write either raise Refused or apply
    completely."""

    def __init__(self, today: date) -> None:
        self.today = today
        # The scorecard that decides, unless one is scheduled for today or a day before.
        self.in_force = STANDARD
        self.schedule: dict[date, str] = {}
        self.referrals: dict[int, Facts] = {}

    # Scorecards.

    def scorecard(self, day: date) -> str:
        """The scorecard that decides on a day."""
        passed = [each for each in self.schedule if each <= day]
        return self.schedule[max(passed)] if passed else self.in_force

    def activate(self, version: str, day: date) -> None:
        """Let a scorecard decide from today or a coming day on."""
        self.in_force = self.scorecard(self.today)
        self.schedule = {on: each for on, each in self.schedule.items() if on > self.today}
        if day == self.today:
            self.in_force = version
        elif self.scorecard(day) != version:
            self.schedule.pop(day, None)
            if self.scorecard(day) != version:
                self.schedule[day] = version

    # Referrals.

    def refer(
        self,
        customer_id: int,
        decision_id: int,
        asked: tuple[int, int, int],
        offered_until: date | None = None,
    ) -> None:
        """Let a request wait for a reviewer for 7 days; `offered_until` is set for an offer."""
        self.referrals[decision_id] = {
            "customer": customer_id,
            "asked": asked,
            "offered_until": offered_until,
            "last_day": self.today + timedelta(days=7),
            "state": "PENDING",
            "result": 0,
        }

    def referral_state(self, referral: Facts) -> str:
        """PENDING up to the last day, then EXPIRED, unless it was reviewed."""
        if referral["state"] == "PENDING" and self.today > referral["last_day"]:
            return "EXPIRED"
        return str(referral["state"])

    def refuse_review(self, decision_id: int) -> None:
        """Raise Refused if the decision does not wait for a reviewer."""
        if decision_id not in self.referrals:
            raise Refused("DECISION_NOT_REFERRED")
        state = self.referral_state(self.referrals[decision_id])
        if state != "PENDING":
            raise Refused("REFERRAL_EXPIRED" if state == "EXPIRED" else "REFERRAL_ALREADY_REVIEWED")

    def review(self, decision_id: int, state: str, result: int = 0) -> None:
        """Store a review, with the decision that an approval made."""
        self.refuse_review(decision_id)
        self.referrals[decision_id] |= {"state": state, "result": result}
