"""Pages of services and of instances. A replica has all of them in memory."""

from configsvc.domain.fields import checked
from configsvc.domain.instances import Instance, Listing, ServiceSummary
from configsvc.domain.limits import Limits
from configsvc.domain.pages import Page, PageRequest, page_of_all


def page_of_services(
    services: tuple[ServiceSummary, ...], page: PageRequest, limits: Limits, *, revision: int, history: str
) -> Page[ServiceSummary]:
    """One page of services, in the order of name. Raises `InvalidInput`."""
    with checked(limits) as fields:
        size = fields.page_size(page.size)
    return page_of_all(
        ("services",),
        services,
        PageRequest(size, page.token),
        revision=revision,
        history=history,
        name=lambda service: service.service_name,
    )


def page_of_instances(
    listing: Listing, query: tuple[object, ...], page: PageRequest, limits: Limits, *, history: str
) -> Page[Instance]:
    """One page of a listing, in the order of instance id; all instances if no size is given. Raises `InvalidInput`."""
    with checked(limits) as fields:
        if page.size:
            fields.page_size(page.size)
    return page_of_all(
        query,
        listing.instances,
        page,
        revision=listing.revision,
        history=history,
        name=lambda instance: instance.instance_id,
    )
