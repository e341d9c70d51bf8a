"""The agenda of the sandbox and the clock that it sets."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from credit_service.clock import Clock
from credit_service.sandbox.agenda import Agenda, SteppedClock, due_installments

TODAY = date(2026, 3, 9)


def test_tasks_of_a_customer_run_in_order_on_their_day() -> None:
    agenda = Agenda(TODAY)
    done: list[str] = []
    agenda.add(TODAY + timedelta(days=2), 1, lambda: done.append("first"))
    agenda.add(TODAY + timedelta(days=2), 1, lambda: done.append("second"))
    agenda.add(TODAY + timedelta(days=2), 1, lambda: done.append("third"))
    with ThreadPoolExecutor(4) as pool:
        agenda.today += timedelta(days=1)
        agenda.run(pool)
        assert done == []
        agenda.today += timedelta(days=1)
        agenda.run(pool)
    assert done == ["first", "second", "third"]


def test_a_task_for_a_day_that_is_over_runs_tomorrow() -> None:
    agenda = Agenda(TODAY)
    done: list[date] = []
    agenda.add(TODAY - timedelta(days=30), 1, lambda: done.append(agenda.today))
    with ThreadPoolExecutor(1) as pool:
        for _ in range(3):
            agenda.run(pool)
            agenda.today += timedelta(days=1)
    assert done == [TODAY + timedelta(days=1)]


def test_the_clock_steps_and_is_never_ahead(tmp_path: Path) -> None:
    path = tmp_path / "clock"
    service, stepped = Clock(offset_file=path), SteppedClock(path)
    stepped.set(TODAY, 13)
    assert service.moment().today == TODAY
    stepped.set(datetime.now(UTC).date() + timedelta(days=10), 13)
    assert service.moment().now <= datetime.now(UTC)
    stepped.set(TODAY, 13)
    stepped.release()
    assert service.moment().today == Clock().moment().today


def test_what_is_due_grows_by_the_month() -> None:
    due = date(2026, 1, 31)
    days = (date(2026, 1, 2), date(2026, 1, 31), date(2026, 2, 27), date(2026, 2, 28))
    assert [due_installments(due, day) for day in days] == [1, 1, 1, 2]
