"""The errors that a user can mend, apart from those that are ours."""


class BadInput(Exception):
    """What the user gave cannot be used.

    The message is one paragraph that names the file, the key and the value at fault, and the way
    out. It is raised before anything is launched; the command line prints it and exits with 2.
    """


class CannotTrain(BadInput):
    """The engine has no way to train this case; another case would do."""
