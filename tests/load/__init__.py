"""What a real server does when there is too much, or too little, of something: a bounded campaign.

`make load`, apart from the tests, since it takes minutes and its findings are of the machine too.
"""
