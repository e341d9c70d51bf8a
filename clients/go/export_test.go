package creditclient

// WatchTime is after which time a stream of events is reopened.
var WatchTime = &watchTime
