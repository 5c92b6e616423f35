def before_observing(spec):
    pass


def after_observing(spec):
    pass
