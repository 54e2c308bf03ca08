def drill_report(result):
    return ""
