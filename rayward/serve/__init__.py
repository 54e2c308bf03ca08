"""Asks Ray Serve over HTTP: dashboards for applications, the proxies on heads for an answer. For every shell;
what follows from the answers is the planner's business."""
