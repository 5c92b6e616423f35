"""The errors that a user can mend, apart from those that are ours."""


class BadInput(Exception):
    """What the user gave cannot be used.

    The message is one paragraph that names the file, the key and the value at fault, and the way
    out. It is raised before anything is launched; the command line prints it and exits with 2.
    """


class CannotStart(BadInput):
    """What is to be trained with fails as it is imported: no run of it can be begun."""


class CannotTrain(BadInput):
    """The engine has no way to train this case; another case would do."""
