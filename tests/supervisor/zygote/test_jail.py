"""The order of the steps, and how a failure is told."""

import errno

import pytest

from supervisor.zygote import jail


def test_the_steps_and_their_order() -> None:
    assert [step.__name__ for step in jail.STEPS] == [
        "validate",
        "close_descriptors",
        "new_session",
        "limit_resources",
        "enter_namespaces",
        "change_root",
        "drop_identity",
        "drop_capabilities",
        "enter_directory",
        "die_with_supervisor",
        "forbid_dumps",
        "forbid_new_privileges",
        "restrict_files",
        "filter_system_calls",
    ]


def test_every_step_says_what_it_is_for() -> None:
    for step in jail.STEPS:
        assert step.__doc__, step.__name__


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (OSError(errno.EPERM, "mount"), jail.EXIT_CONFIGURATION),
        (OSError(errno.ENOSYS, "landlock"), jail.EXIT_CONFIGURATION),
        (OSError(errno.ENOENT, "missing"), jail.EXIT_CONFIGURATION),
        (ValueError("not a tenant id"), jail.EXIT_CONFIGURATION),
        (OSError(errno.ENOMEM, "clone"), jail.EXIT_FAILED),
        (OSError(errno.ENOSPC, "mount"), jail.EXIT_FAILED),
        (ProcessLookupError(errno.ESRCH, "the supervisor is gone"), jail.EXIT_FAILED),
    ],
)
def test_exit_codes(cause: Exception, code: int) -> None:
    error = jail.JailError("a_step", cause)
    assert error.exit_code == code
    assert str(error) == f"jail: a_step: {cause}"
